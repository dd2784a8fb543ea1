import React from 'react';
import { CommandIDs } from '../../commands';
import type { IPanelContext } from '../section';
import { Section } from '../section';
import { HistoryBody } from './body';
import { HistoryModel } from './model';

/**
 * The history of the notebook in front as a tree.
 */
export class HistorySection extends Section<HistoryModel> {
  constructor(context: IPanelContext) {
    super(
      new HistoryModel(context.model, context.store, context.settings),
      context,
      { id: 'history', label: context.trans.__('History') }
    );
    this.addTool('diff', CommandIDs.diff);
  }

  protected override render(): React.ReactElement {
    return <HistoryBody model={this.model} context={this.context} />;
  }
}
