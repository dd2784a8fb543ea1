import React from 'react';
import { CommandIDs } from '../../commands';
import type { IPanelContext } from '../section';
import { Section } from '../section';
import { NotebookBody } from './body';
import { NotebookModel } from './model';

/**
 * What the notebook in front runs in.
 */
export class NotebookSection extends Section<NotebookModel> {
  constructor(context: IPanelContext) {
    super(new NotebookModel(context.model, context.store), context, {
      id: 'notebook',
      label: context.trans.__('This Notebook')
    });
    this.addTool('snapshot', CommandIDs.snapshot);
    this.addTool('rollback', CommandIDs.rollback);
    this.addTool('fork', CommandIDs.fork);
  }

  protected override render(): React.ReactElement {
    return <NotebookBody model={this.model} context={this.context} />;
  }
}
