import React from 'react';
import { CommandIDs } from '../../commands';
import type { IPanelContext } from '../section';
import { Section } from '../section';
import { StoreView } from '../view';
import { RuntimesBody } from './body';

/**
 * All runtimes, and what builds them.
 */
export class RuntimesSection extends Section<StoreView> {
  constructor(context: IPanelContext) {
    super(
      new StoreView(context.store, ['runtimes', 'operations', 'connection']),
      context,
      { id: 'runtimes', label: context.trans.__('Runtimes') }
    );
    this.addTool('add', CommandIDs.addRuntime);
  }

  protected override render(): React.ReactElement {
    return <RuntimesBody store={this.model.store} context={this.context} />;
  }
}
